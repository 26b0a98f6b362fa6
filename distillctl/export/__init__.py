"""What lies beside an exported file: labels, a script that answers, a model card, a web page."""
