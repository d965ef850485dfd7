"""Who may connect and what connects: access decisions, and simulators that replay real recordings.

Imports only `core`.
"""
