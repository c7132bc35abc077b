"""Runs scripts in processes forked from one that has already done the slow imports.

Each script runs as if a user started it: as `__main__` of its own process, with its own arguments,
environment, output and exit status. This saves the seconds that imports take. Only third-party
packages that hold no state of ours are imported beforehand: neither mmswinv2 nor the OpenMMLab
packages that it patches, except mmengine, which every script imports first.

`Server` is the client in the tests. This file, run as a program, is the server process.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

PRELOADED = (
    'torch', 'mmengine.runner', 'cv2', 'imgaug', 'matplotlib.pyplot', 'numba', 'pycocotools.coco',
    'scipy.optimize', 'scipy.stats', 'shapely', 'skimage', 'torch._dynamo', 'yapf.yapflib.yapf_api',
)  # fmt: skip


class Finished(subprocess.CompletedProcess):
    """A process that has ended, with its output as text."""

    def succeeded(self):
        """Itself; the test fails here if the exit status is not 0."""
        assert self.returncode == 0, f'{self.stdout[-3000:]}\n{self.stderr[-3000:]}'
        return self


def run_program(command, cwd=None, env=(), **options):
    """Run a program to its end, with `env` added to the environment; see `subprocess.run`."""
    command, env = list(map(str, command)), {**os.environ, **dict(env)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, **options)
    return Finished(**vars(done))


class Server:
    """Client of the server process, which starts with the first script and ends with `close`."""

    def __init__(self, threads):
        self.threads = threads
        self.process = None

    def run(self, script, args, cwd, *envs, timeout=900):
        """Like `subprocess.run([sys.executable, script, *args], ...)` with captured text.

        Runs one process for each environment; if one fails, the others are killed. Packages that
        read the environment at import have read that of the server process.
        """
        command = [str(script), *map(str, args)]
        if self.process is None:
            self._start()
        with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
            request = json.dumps(dict(argv=command, cwd=str(cwd), envs=envs)).encode()
            socket.send_fds(self.socket, [b'%8d' % len(request)], [out.fileno(), err.fileno()])
            self.socket.sendall(request)
            self.socket.settimeout(timeout)
            try:
                status = self.socket.recv(8)
            except TimeoutError:
                self.close()
                raise subprocess.TimeoutExpired(command, timeout) from None
            if not status:
                raise RuntimeError('the process that starts scripts has ended')
            texts = [file.seek(0) or file.read() for file in (out, err)]
        return Finished(command, int(status), *texts)

    def _start(self):
        self.socket, other = socket.socketpair()
        with other:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={'OMP_NUM_THREADS': self.threads, **os.environ, 'PYTHONWARNINGS': 'ignore'},
            )

    def close(self):
        """End the server process, and the script that it waits for."""
        if self.process is not None:
            self.socket.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def receive(connection, size):
    data = b''
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data


def serve(connection):
    """Fork for every request; returns in the forked process, with the request and environment."""
    while True:
        head, files, *_ = socket.recv_fds(connection, 8, 2)
        if not head:
            os._exit(0)
        request = json.loads(receive(connection, int(head)))
        children = set()
        for env in request['envs']:
            if not (child := os.fork()):
                connection.close()
                for source, target in zip(files, (1, 2), strict=True):
                    os.dup2(source, target)
                    os.close(source)
                return request, env
            children.add(child)
        for file in files:
            os.close(file)
        connection.sendall(b'%8d' % wait(children))


def wait(children):
    """The exit status of the first process that fails, or 0."""
    failed = 0
    while children:
        child, status = os.wait()
        children.discard(child)
        if (status := os.waitstatus_to_exitcode(status)) and not failed:
            failed = status
            for other in children:
                os.kill(other, signal.SIGKILL)
    return failed


def main():
    sys.path.pop(0)  # the folder of this file
    for name in PRELOADED:
        # not all are installed in each environment; torchvision may fail without our patches
        with contextlib.suppress(ImportError, RuntimeError):
            importlib.import_module(name)
    # with a read-only home matplotlib has a temporary folder, which every fork would remove
    atexit.unregister(shutil.rmtree)
    gc.freeze()
    request, env = serve(socket.socket(fileno=int(sys.argv[1])))
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(env)
    folders = env.get('PYTHONPATH', '').split(os.pathsep)
    sys.argv = request['argv']
    script = os.path.abspath(sys.argv[0])
    sys.path[:0] = [os.path.dirname(script), *(f for f in folders if f and f not in sys.path)]
    # a new process draws a new seed
    random.seed()
    sys.modules['numpy'].random.seed()
    end(status_of(script))


def status_of(script):
    """Run a script; its exit status. Errors other than `SystemExit` are raised."""
    try:
        runpy.run_path(script, run_name='__main__')
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    return 0


def end(status):
    """End the process as Python does, but without freeing all modules: half a second."""
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == '__main__':
    main()
