"""What makes a net or its file smaller: fewer channels, fewer weights, smaller numbers, each judged by what it answers afterwards."""
