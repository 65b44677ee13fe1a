"""Text-driven editing of nerfstudio scenes by score distillation.

A nerfacto or splatfacto run is edited by `ns-train pds-edit` (or `sds-edit`, `dds-edit`, and the same
names with `-splat`). The mathematics is in `objectives`, diffusion models are in `priors`, nerfstudio scenes in
`scenes`, and `pipelines` is the one place where a prior meets a scene. Importing this package loads nothing heavy.
"""

__version__ = "0.2.0"
