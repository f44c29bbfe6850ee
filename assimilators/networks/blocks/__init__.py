"""Building blocks that the networks share: layers on the sphere, the common base, priors, diffusion.

The modules of `assimilators.networks` import them. Put a block here when a second network needs it.
"""
