"""What a conversion promises, checked on the network itself.

trials   random masks, and noise on every entry that is not locked
inputs   a call of the network, from its signature
checks   equivalence, scramble, tightness, hooks, and what has moved behind the optimizer's back
verify   all checks, and their report
"""
