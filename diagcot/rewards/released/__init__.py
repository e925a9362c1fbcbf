"""The published rewards, faults included: one module for each published file, with its own way to read a reply.

Sources: the reward functions in the EasyR1 copies of TMLSIAT/DiagCoT-main (arXiv:2509.06409) and SII-WenjieLisjtu/CX-Mind
(arXiv:2508.03733). Only the modes that keep a published formula use this; everything else reads replies with `diagcot.text`.
"""
