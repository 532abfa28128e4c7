"""Tests lie in the folder of the package that they test; what several folders use is in `support`.

The docstring of a test names the fault that the test would find.
"""
