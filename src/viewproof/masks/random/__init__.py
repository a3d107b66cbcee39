"""Random masks, each a function of (seed, epoch, sample id): a layer above the core.

The core, the other files of `viewproof.masks`, says what a mask, a rule and a sample are and can be read alone. Here
are the rules that draw one mask a sample: `draws` makes random words in plain integer arithmetic and turns them into
choices, `rule` is the interface, and every other file is one kind of rule.
"""
