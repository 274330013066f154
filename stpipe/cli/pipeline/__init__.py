"""Named runs: a YAML file of stages, each of them a verb of the command line with its own options.

`files` reads them and knows the shipped ones; `keys` knows what a stage may say, from the verbs themselves; `commands`
makes a command line of each stage; `records` knows what is done already.
"""
