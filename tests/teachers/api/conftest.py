"""What the tests of a teacher behind an endpoint share."""

from endpoints import asking, server

__all__ = ["asking", "server"]
