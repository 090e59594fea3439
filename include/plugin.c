/*
 * The plugin table under the name that uWSGI looks for. Only uWSGI's own build compiles this file (uwsgiplugin.py):
 * it may rename the symbol (-Dtuntap_plugin=...), which a table in a Rust archive can't follow.
 */
#include <uwsgi.h>

extern struct uwsgi_plugin uwsgi_tuntap_plugin_table;

struct uwsgi_plugin tuntap_plugin;

__attribute__((constructor)) static void tuntap_copy_table(void) {
	tuntap_plugin = uwsgi_tuntap_plugin_table;
}
