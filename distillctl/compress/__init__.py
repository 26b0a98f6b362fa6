"""What makes a net or its file smaller, each judged by what it answers afterwards."""
