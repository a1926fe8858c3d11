"""The crash suite: real processes, real servers, and everything that breaks them.

A test tells who produces and who consumes, breaks something, and asks the `Audit` whether
what was written down outside the database agrees with what is promised.
"""
