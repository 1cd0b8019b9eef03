"""How fast training, anonymizing and the privacy mechanisms run on the machine at hand."""
