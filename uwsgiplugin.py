# uWSGI's build executes this text: for `uwsgi --build-plugin <folder>`, for `python uwsgiconfig.py --plugin <folder>`,
# and with UWSGI_EMBED_PLUGINS for a binary with the plugin inside. There is no __file__; folder and compiler flags are
# in the variables of the function that executes it.
import glob
import os
import subprocess
import sys

_builder = sys._getframe(1).f_locals
_folder = os.path.abspath(_builder['path'])

# `--build-plugin` leaves the header of the running binary here; every other way runs in uWSGI's source tree.
_header = '.uwsgi_plugins_builder/uwsgi.h' if 'UWSGI_PLUGINS_BUILDER_CFLAGS' in os.environ else 'uwsgi.h'
_target = os.path.join(_folder, 'target', 'embedded')

# uWSGI would take an object for up to date that was compiled for another uWSGI.
for _object in glob.glob(os.path.join(_folder, 'include', '*.o')):
    os.remove(_object)

_environment = dict(os.environ)
# Flags for uWSGI's C code; cargo's own C builds do without.
for _name in ('CFLAGS', 'LDFLAGS'):
    _environment.pop(_name, None)
_environment.update({
    'CARGO_TARGET_DIR': _target,
    'UWSGI_TUNTAP_HEADER': os.path.abspath(_header),
    'UWSGI_TUNTAP_CFLAGS': ' '.join(_builder['cflags']),
})
try:
    subprocess.check_call(
        [os.environ.get('CARGO', 'cargo'), 'rustc', '--release', '--locked', '--lib', '--crate-type', 'staticlib',
         '--features', 'embedded'],
        cwd=_folder, env=_environment)
except OSError as error:
    print('*** tuntap: cargo does not run (%s); the plugin needs a Rust toolchain, see https://rustup.rs ***' % error)
    sys.exit(1)
except subprocess.CalledProcessError:
    print('*** tuntap: cargo failed, see above ***')
    sys.exit(1)

NAME = 'tuntap'
CFLAGS = []
# Without this, everything in the Rust archive would become a symbol of the plugin, or of the binary.
LDFLAGS = ['-Wl,--exclude-libs,libtuntap_plugin.a']
LIBS = []
GCC_LIST = ['include/plugin.c', 'include/shim.c', os.path.join(_target, 'release', 'libtuntap_plugin.a')]
