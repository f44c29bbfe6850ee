"""Classical assimilation: the yardstick of every trained method.

Holds ensemble optimal interpolation, the static ensemble behind it, and an isotropic variant for lists of points. The
guarded step (`assimilators.step`) and `cycler.single` call it. Put the next classical method (3D-Var, LETKF, 4D-Var)
here: one module that implements `assimilators.base.Assimilator` and registers its file suffix.
"""
