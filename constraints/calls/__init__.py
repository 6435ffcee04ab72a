"""What a forced call may be: rules that any way of writing calls is spelt in, and the constraint that is made of them.

A `CallWriter` is one such way. The formats that models use are not known here.
"""
