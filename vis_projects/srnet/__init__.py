"""SRNet: instances and their motion from spatial relations, in one stage (Ying et al. 2021)."""
