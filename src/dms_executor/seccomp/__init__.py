"""The seccomp filter of jobs: from the distribution's profile, compiled once, kept in a cache."""

from .profile import compiled, load_profile, oci_form

__all__ = ["compiled", "load_profile", "oci_form"]
