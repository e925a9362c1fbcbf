"""`make doctor`: looks at machine, environment, cluster, data and models, and says of each what to mend."""

from diagcot.preflight.doctor.report import main

__all__ = ["main"]
