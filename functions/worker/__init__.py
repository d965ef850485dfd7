"""What runs inside the sandbox: mounted at /var/runtime, standard library only, for Python 3.9 and later.

Started as a directory (`python -I -S /var/runtime …`), so its modules have no package there: `import entering`.
"""
