"""What every process stands on: messages, topics, MQTT, the store, frames, service life, telemetry.

Imports nothing of ours. Decides nothing about rules, shadows, devices or targets.
"""
