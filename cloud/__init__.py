"""The service that edges sync to: ingest, inbox, the rules' targets.

Meets edges as bytes on a connection only. Imports nothing of the edge.
"""
