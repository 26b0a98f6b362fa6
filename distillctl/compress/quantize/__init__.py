"""Files with fewer bits: each way a file of its own, and the choice among them by what they answer."""
