"""`make doctor`: checks machine, environment, cluster, data and models, and says what to fix."""

from diagcot.preflight.doctor.report import main

__all__ = ["main"]
