/*
 * Gives each uid from 20001 to 20253 the address 192.168.0.(uid - 19999), and refuses all others.
 *
 * This is a uWSGI plugin without any behaviour of its own; the router finds the function by its name. Build it for the
 * uWSGI that will load it, and install it beside the tuntap plugin:
 *
 *   PYTHON=python3 uwsgi --build-plugin uid_address.c
 *   install -m 644 uid_address_plugin.so /usr/local/lib/uwsgi/plugins/
 *
 * The function runs inside the router, for each connection: it must not block.
 */
#include <uwsgi.h>

uint32_t uid_address(pid_t pid, uid_t uid, gid_t gid) {
	if (uid < 20001 || uid > 20253) return 0;
	/* network byte order; 0 would refuse the vassal */
	return htonl(0xc0a80000 + (uid - 19999));
}

struct uwsgi_plugin uid_address_plugin = {
	.name = "uid_address",
};
