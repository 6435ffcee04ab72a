"""Texts that may go one of several ways: a thought, then calls or an answer that obeys a constraint of its own.

Routes are made of legs, each a constraint. The markers that stand between them are constraints too. Nothing here knows
what calls or thoughts are.
"""
