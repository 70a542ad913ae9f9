"""Coverage-guided fuzzing: `python -m fuzz`, explained in docs/fuzzing.md.

choices   bytes as a sequence of choices        group     a group with fixed keys, honest members and a traitor
targets   what is fuzzed, one module each       corpus    inputs worth keeping, one text file for each target
engine    one target under atheris              __main__  the runner

Only `engine` needs atheris: every target can be run on the corpus without it.
"""
