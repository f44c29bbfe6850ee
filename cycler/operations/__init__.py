"""Operations: Prefect flows, the service without Prefect, plans, checks of an installation, output for others.

Prefect deployments and the command line call it. Put what an operator schedules or asks for here.
"""
