"""What lies beside an exported file, and whether the file is right."""
