//! The application of the tests: it writes down that it runs, and writes to the database as long as it
//! does; what the database has confirmed, it writes down too.

use std::path::Path;

/// Its script. Times are the kernel's, from /proc/uptime, which all namespaces share.
const SCRIPT: &str = r#"#!/bin/bash
cd FOLDER
me="$LOCKSTEP_NODE $LOCKSTEP_EPOCH"
export PGCONNECT_TIMEOUT=2 PGPASSWORD=app
trap '' PIPE
exec {never}<> <(:)
writer() {
    # Another number in each life of the service, also within one term.
    n=$(($$ * 100000))
    while :; do
        coproc DB { exec CLIENT; }
        pid=$DB_PID from=${DB[0]} to=${DB[1]}
        # It may try several addresses first.
        echo "select 1;" >&$to
        read -r -t 20 answer <&$from
        while [ "$answer" ]; do
            n=$((n + 1))
            read -r begun _ < /proc/uptime
            echo "insert into writes(epoch, node, n) values ($LOCKSTEP_EPOCH, '$LOCKSTEP_NODE', $n) returning n;" >&$to || break
            read -r -t 3 answer <&$from || break
            read -r ended _ < /proc/uptime
            [ "$answer" = "$n" ] && echo "$begun $ended $me $n" >> acks
            read -r -t 0.1 -u $never
        done
        kill -9 $pid
        wait $pid
        read -r -t 0.2 -u $never
    done
}
writer >/dev/null 2>&1 &
while :; do read -r up _ < /proc/uptime; echo "$up $me" >> beats; read -r -t 0.02 -u $never; done
"#;

/// Writes the script to `folder`, which also gets what it writes down.
pub(super) fn write(folder: &Path, client: &str) {
    let script = SCRIPT.replace("FOLDER", &folder.display().to_string()).replace("CLIENT", client);
    let path = folder.join("service");
    std::fs::write(&path, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
}
