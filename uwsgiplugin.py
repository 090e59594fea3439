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
_target = os.path.join(_folder, 'target', 'plugin')

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

# Luau, which runs scripts, has the names of other Luas, which may be in the same binary or in a plugin beside this one.
# So all of the Rust archive, with the C++ library that Luau needs, becomes one object with one visible symbol.
_release = os.path.join(_target, 'release')
_rust = os.path.join(_release, 'libtuntap_plugin.a')
_object = os.path.join(_release, 'tuntap.o')
_archive = os.path.join(_release, 'libtuntap_whole.a')
_table = 'uwsgi_tuntap_plugin_table'
_cxx = os.environ.get('CXX', 'g++').split()
try:
    _cxx_library = subprocess.check_output(_cxx + ['-print-file-name=libstdc++.a']).decode().strip()
    subprocess.check_call(
        _cxx + ['-r', '-nostdlib', '-Wl,--force-group-allocation', '-Wl,-u,' + _table, '-o', _object, _rust, _cxx_library])
    # The bitcode is for optimizations that are over; a plugin of LLVM in binutils can't read it as one piece.
    subprocess.check_call([os.environ.get('OBJCOPY', 'objcopy'), '--keep-global-symbol=' + _table,
                           '--remove-section=.llvmbc', '--remove-section=.llvmcmd', _object])
    if os.path.exists(_archive):
        os.remove(_archive)
    subprocess.check_call([os.environ.get('AR', 'ar'), 'rcs', _archive, _object])
except (OSError, subprocess.CalledProcessError) as error:
    print('*** tuntap: linking failed (%s); it needs g++ and binutils ***' % error)
    sys.exit(1)

NAME = 'tuntap'
CFLAGS = []
# The table is for include/plugin.c alone.
LDFLAGS = ['-Wl,--exclude-libs,libtuntap_whole.a']
LIBS = ['-lm']
GCC_LIST = ['include/plugin.c', 'include/shim.c', _archive]
