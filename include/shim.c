#include <uwsgi.h>

/* The plugin's own business: hidden, so that two plugins in one process can't take each other's shim. */
#pragma GCC visibility push(hidden)
#include "shim.h"
#pragma GCC visibility pop

extern struct uwsgi_server uwsgi;

static const char *config(void) {
	static const char *const options[] = {"ini", "xml", "yaml", "yml", "json", "config", NULL};
	int i, j;
	for (i = 0; i < uwsgi.exported_opts_cnt; i++) {
		for (j = 0; options[j]; j++) {
			if (!strcmp(uwsgi.exported_opts[i]->key, options[j])) return uwsgi.exported_opts[i]->value;
		}
	}
	return NULL;
}

void tuntap_uwsgi_read(struct tuntap_uwsgi *state) {
	state->version = UWSGI_VERSION;
	state->jailed = uwsgi.jailed;
	state->master_as_root = uwsgi.master_as_root;
	state->daemonizes_late = uwsgi.daemonize2 && !uwsgi.has_emperor && !uwsgi.is_a_reload;
	state->is_reload = uwsgi.is_a_reload;
	state->unshares_net = (uwsgi.unshare & CLONE_NEWNET) != 0;
	state->has_emperor = uwsgi.has_emperor;
	state->abstract_socket = uwsgi.abstract_socket;
	state->stats_http = uwsgi.stats_http;
	state->stats_minified = uwsgi.stats_minified;
	state->socket_timeout = uwsgi.socket_timeout;
	state->uid = (unsigned int) uwsgi.uid;
	state->gid = (unsigned int) uwsgi.gid;
	state->uid_name = uwsgi.uidname;
	state->gid_name = uwsgi.gidname;
	state->chown_socket = uwsgi.chown_socket;
	state->config = config();
}

int tuntap_uwsgi_ensure_master(void) {
	int asked_for = 0;
	int i;
	for (i = 0; i < uwsgi.exported_opts_cnt; i++) {
		if (!strcmp(uwsgi.exported_opts[i]->key, "master")) asked_for = uwsgi.master_process;
	}
	uwsgi.master_process = 1;
	return !asked_for && !uwsgi.has_emperor;
}

int tuntap_uwsgi_bind_unix(char *name) {
	int fd = bind_to_unix(name, uwsgi.listen_queue, uwsgi.chmod_socket, uwsgi.abstract_socket);
	if (fd >= 0 && uwsgi.chown_socket && name[0] != '@' && !uwsgi.abstract_socket) {
		uwsgi_chown(name, uwsgi.chown_socket);
	}
	return fd;
}

int tuntap_uwsgi_bind_tcp(char *name) {
	/* a stats client may wait for the answer without sending anything, which a deferred accept would not show us */
	int no_defer_accept = uwsgi.no_defer_accept;
	/* the address may be one that the host is yet to get */
	int freebind = uwsgi.freebind;
	uwsgi.no_defer_accept = 1;
	uwsgi.freebind = 1;
	int fd = bind_to_tcp(name, uwsgi.listen_queue, strrchr(name, ':'));
	uwsgi.no_defer_accept = no_defer_accept;
	uwsgi.freebind = freebind;
	return fd;
}

int tuntap_uwsgi_gateway_pid(const void *gateway)
{
	return ((const struct uwsgi_gateway *)gateway)->pid;
}

void tuntap_uwsgi_end_gateway(const void *gateway)
{
	/* a deadline that has passed whatever the clock says; the next start of the gateway clears it */
	ushared->gateways_harakiri[(const struct uwsgi_gateway *)gateway - ushared->gateways] = 1;
}

int tuntap_uwsgi_master_watch(int fd)
{
	return event_queue_add_fd_read(uwsgi.master_queue, fd);
}

void tuntap_uwsgi_master_unwatch(int fd)
{
	event_queue_del_fd(uwsgi.master_queue, fd, event_queue_read());
}

int tuntap_uwsgi_option(int number, const char **key, const char **value)
{
	if (number < 0 || number >= uwsgi.exported_opts_cnt) return 0;
	*key = uwsgi.exported_opts[number]->key;
	*value = uwsgi.exported_opts[number]->value;
	return 1;
}

void tuntap_uwsgi_add_option(const char *key, const char *value)
{
	add_exported_option((char *) key, (char *) value, 0);
}

int tuntap_uwsgi_has_metrics(void)
{
	return uwsgi.has_metrics;
}

void tuntap_uwsgi_register_metric(const char *name, int is_gauge, const void *value)
{
	/* uWSGI copies the name, and only reads the value */
	uint8_t type = is_gauge ? UWSGI_METRIC_GAUGE : UWSGI_METRIC_COUNTER;
	uwsgi_register_metric((char *) name, NULL, type, "ptr", (void *) value, 0, NULL);
}

void tuntap_uwsgi_rename_plugin(const void *options, const char *name)
{
	int i;
	for (i = 0; i < uwsgi.gp_cnt; i++) {
		if (uwsgi.gp[i]->options == options) uwsgi.gp[i]->name = name;
	}
}

const void *tuntap_uwsgi_other_plugin(const char *name, const void *options)
{
	int i;
	for (i = 0; i < uwsgi.gp_cnt; i++) {
		const char *its_name = uwsgi.gp[i]->name;
		if (uwsgi.gp[i]->options != options && its_name && !strcmp(its_name, name)) return uwsgi.gp[i];
	}
	return NULL;
}
