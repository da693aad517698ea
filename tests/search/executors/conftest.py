"""What clusters are held to, for the tests of both."""

from cluster_fixtures import undisturbed

__all__ = ["undisturbed"]
