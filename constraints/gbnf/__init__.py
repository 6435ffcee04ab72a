"""llama.cpp's GBNF read whole and written in llguidance's Lark, for the same texts.

GBNF knows characters. llguidance reads a text in lexemes, each as long as it can be, and never goes back: two rules in
a row that share characters would mean something else there. So what is regular is joined into one lexeme, and where a
lexeme could end before the longest text that fits, it is taken apart again, down to single characters if need be.
"""
