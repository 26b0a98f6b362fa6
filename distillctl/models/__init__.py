"""The nets that can be a teacher or a student: what can be named, how each is built, how its weights are read."""
