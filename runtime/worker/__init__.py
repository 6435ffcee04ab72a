"""A machine that holds a part of a model: `python -m greenroom.worker`, which rank 0 tells what to compute.

It knows no requests and no text; the app is rank 0, and everything of a user's stays there.
"""
