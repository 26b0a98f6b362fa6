<<<<<<< HEAD
"""What makes a net smaller: fewer channels, fewer weights."""
=======
"""What makes a net or its file smaller, each judged by what it answers afterwards."""
>>>>>>> quantize
