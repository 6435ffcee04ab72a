"""What is found of this machine and of a model on it: whether all is right, how fast it is, and what it stands on.

Checks give findings, findings make a report. It knows no command line; the numbers of arrays come from
`greenroom.backends.mlx.diagnostics`, which is imported by the checks alone: where MLX cannot be imported, that is a
finding too.
"""
