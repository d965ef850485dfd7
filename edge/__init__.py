"""The daemon on the box: the gateway between devices and local reactions, the durable buffer, the uplink.

Meets the cloud as bytes on a connection only. Will not import boto3, nor wait for the cloud in anything it does.
"""
