"""The doctor: checks of the service, of storage and of this host, each with a remedy. Nothing here changes anything.

look = Look.of_host(settings)
for finding in examine(HOST_CHECKS, look): ...
"""
