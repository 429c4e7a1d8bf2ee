# Runs each given attack in a shell of its own, and keeps what it printed.
cd /srv/website/work
export PYTHONPATH=/srv/website/work PYTHONDONTWRITEBYTECODE=1
rm -rf out/*
printf '%s\n' "$@" | xargs -P 3 -I{} sh -c 'timeout -s KILL 15 bash attacks/{} >out/{} 2>&1 </dev/null; echo "status $?" >>out/{}'
echo complete
