"""`parity launch`: the command of vLLM for each arm, printed, or run and watched.

plan.py       recipe, checkpoint and machine -> what would be started, or why not
program.py    what the given interpreter has: `vllm serve`, or the module
printed.py    the commands for a shell, as JSON, and the settings file that names both arms
machine.py    a free port, and memory
engine.py     one process: started in a session of its own, asked for its health, ended as a whole
guard.py      what it is started through, so that nothing of it outlives us
watch.py      all of them: in order, until ready, until one ends
causes.py     an engine's last lines -> what went wrong and the fix
served.py     a ready engine, asked whether it serves what the recipe says
run.py        the same for a person: progress, what is served, how it ended
command.py    the words, the exit codes
"""
