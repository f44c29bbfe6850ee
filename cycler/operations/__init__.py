"""Operations: Prefect flows, the service without Prefect, plans, checks of an installation, output for others.

Prefect deployments and the command line call it. Put here the actions that an operator schedules or requests.
"""
