"""Classical assimilation, which every trained method is compared with.

Holds ensemble optimal interpolation, the static ensemble behind it, and an isotropic variant for lists of points. The
guarded step (`assimilators.step`) and `cycler.single` call it. Put the next classical method here: one module like
`oi`, whose class implements `assimilators.base.Assimilator`, and one line in `base.LOADERS`. Ensemble filters and
variational methods have packages of their own beside this one.
"""
