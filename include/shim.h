/*
 * The part of uWSGI that only C can reach: `struct uwsgi_server` has another layout for every version and set of
 * build flags, so nothing but this shim, compiled with uWSGI's own header and flags, looks into it.
 */
#ifndef TUNTAP_SHIM_H
#define TUNTAP_SHIM_H

/* What the plugin reads from uWSGI. Strings belong to it and stay valid; numbers are as of the call. */
struct tuntap_uwsgi {
	const char *version;
	int jailed;             /* `jailed = true`: born in its namespaces */
	int master_as_root;     /* the master keeps its privileges, workers drop theirs */
	int daemonizes_late;    /* `daemonize2` will fork twice after the apps are loaded */
	int is_reload;          /* this image was executed by a running instance */
	int unshares_net;       /* `unshare` has the network namespace in it */
	int has_emperor;        /* an Emperor has started it, and starts it again when it ends */
	int abstract_socket;    /* names of unix sockets are in the abstract namespace, whatever they look like */
	int stats_http;
	int stats_minified;
	int socket_timeout;     /* seconds */
	unsigned int uid;       /* what the instance drops to; 0 if not set or given by name */
	unsigned int gid;
	const char *uid_name;   /* NULL if not given by name */
	const char *gid_name;
	const char *chown_socket; /* `user[:group]`, whose the files of unix sockets shall be; NULL if not set */
	const char *config;     /* the first configuration file, or what stands for it; NULL if there is none */
};

void tuntap_uwsgi_read(struct tuntap_uwsgi *state);

/*
 * Gives the instance a master process. Returns 1 if its configuration doesn't ask for one by itself, else 0.
 */
int tuntap_uwsgi_ensure_master(void);

/*
 * Listening sockets with uWSGI's own options (listen, chmod-socket, chown-socket, abstract-socket, ...). uWSGI
 * logs and exits if it can't bind. `name` is left as it was.
 */
int tuntap_uwsgi_bind_unix(char *name);
int tuntap_uwsgi_bind_tcp(char *name);

/*
 * The process of a gateway that register_gateway() has returned; 0 before its first start.
 */
int tuntap_uwsgi_gateway_pid(const void *gateway);

/*
 * Has the master end a gateway the next time that it looks after deadlines: it logs that, kills the process, and starts the
 * next one, as for any gateway that is past its harakiri.
 */
void tuntap_uwsgi_end_gateway(const void *gateway);

/*
 * Makes the master look after its processes as soon as a descriptor is readable, which it does once in a second otherwise.
 * For its `master_cycle` only: the queue is there by then. Returns -1 if that is not possible.
 */
int tuntap_uwsgi_master_watch(int fd);
void tuntap_uwsgi_master_unwatch(int fd);

/*
 * The options of the configuration as far as it was read, in order, with placeholders filled in once uWSGI handles them.
 * Returns 0 if there is none of this number. A value may be NULL.
 */
int tuntap_uwsgi_option(int number, const char **key, const char **value);

/*
 * Adds an option behind all others. The strings must live as long as the process.
 */
void tuntap_uwsgi_add_option(const char *key, const char *value);

/*
 * uWSGI's own metrics. A metric is registered before uWSGI sets them up; its collector reads the value once in a second, for as
 * long as the process lives. The name has letters, digits, dots, hyphens and underscores alone, or uWSGI ends the process.
 */
int tuntap_uwsgi_has_metrics(void);
void tuntap_uwsgi_register_metric(const char *name, int is_gauge, const void *value);

/*
 * A plugin is known by its options here, because its table may be a copy. Gives the one with these options another name;
 * the string must live as long as the process.
 */
void tuntap_uwsgi_rename_plugin(const void *options, const char *name);

/*
 * The table of a plugin of this name that has other options than these; NULL if none was loaded.
 */
const void *tuntap_uwsgi_other_plugin(const char *name, const void *options);

#endif
