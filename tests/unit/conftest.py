"""No time limits of Hypothesis in unit tests."""

import hypothesis

# The first example of a test may be the one that imports a library, and other work on the machine takes its time too.
hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.load_profile("unit")
