"""What makes a net smaller: fewer channels, fewer weights."""
