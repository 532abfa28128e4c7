"""The demonstration."""


def show(pipeline, stack, say):
    return []
