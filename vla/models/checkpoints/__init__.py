"""Checkpoints of other projects: pi0 and pi0.5 as openpi's PyTorch models and as LeRobot policies, in and out.

`importing` makes a bundle of a folder, `exporting` a folder of a bundle. Both name everything that they leave out, add
or cannot express, and nothing is taken over by halves.
"""
