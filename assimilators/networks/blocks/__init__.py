"""Building blocks that the networks share: layers on the sphere, the common base, priors, diffusion.

The modules of `assimilators.networks` import them. Put a block here once a second network needs it.
"""
