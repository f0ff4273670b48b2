//! What calling a function does.
//!
//! Volatility comes from the server's catalog. The lists here only say what the catalog cannot:
//! which of PostgreSQL's own volatile functions are harmless, and which of them (or of the stable
//! ones) have a meaning on one server only.

use pg_query::protobuf::FuncCall;
use pg_query::{Node, NodeEnum};

use super::catalog::Function;
use super::drawn;
use super::effects::Volatility;
use super::names;
use super::own;
use super::resolve::Found;
use super::statement::{Hold, Refusal, Sequences, Touched};
use super::walk::Walker;

/// What one of PostgreSQL's own functions that is not immutable does.
enum Verdict {
    /// Differs from call to call, and that is all.
    Harmless,
    /// Belongs to the transaction.
    Clock,
    /// Has a meaning on the leader only.
    Leader(Hold),
    /// Belongs to the leader and to the transaction.
    LeaderClock,
    Currval,
    Nextval,
    Setval,
    SetConfig,
    CurrentSetting,
    /// Looks up names or object numbers at run time.
    ByName,
    /// Reads tables that its arguments name.
    ReadsTables,
    Notify,
    LargeObject,
    ServerFile,
    ServerControl,
    /// As its volatility says.
    Plain,
}

/// Extensions whose volatile functions only make random values or read statistics.
const HARMLESS_EXTENSIONS: [&str; 4] =
    ["uuid-ossp", "pgcrypto", "pg_stat_statements", "pgstattuple"];

/// Settings that say which server, or which kind of transaction, is answering.
const LEADER_SETTINGS: [&str; 19] = [
    "cluster_name",
    "config_file",
    "data_directory",
    "default_transaction_read_only",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "in_hot_standby",
    "is_superuser",
    "listen_addresses",
    "log_directory",
    "port",
    "role",
    "session_authorization",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "unix_socket_directories",
    "all",
];

/// Whether SHOW of this setting belongs on the leader.
pub(super) fn is_leader_setting(name: &str) -> bool {
    LEADER_SETTINGS.contains(&name)
}

/// Whether a setting is the proxy's own.
pub(super) fn is_reserved_setting(name: &str) -> bool {
    name.get(..9).is_some_and(|prefix| prefix.eq_ignore_ascii_case("lockstep."))
}

impl<'t> Walker<'_, 't> {
    /// A function call with all its parts.
    pub(super) fn call(&mut self, call: &'t FuncCall) {
        self.nodes(&call.args);
        self.nodes(&call.agg_order);
        self.opt(&call.agg_filter);
        if let Some(window) = &call.over {
            self.window(window);
        }
        let Some((schema, name)) = names::qualified(&call.funcname) else {
            return self.effects.anything();
        };
        if schema == "lockstep" {
            return self.own_function(name);
        }
        // What these make depends on the order in which rows come.
        let ordered = matches!(
            name,
            "array_agg"
                | "string_agg"
                | "json_agg"
                | "jsonb_agg"
                | "json_object_agg"
                | "jsonb_object_agg"
                | "xmlagg"
                | "row_number"
                | "first_value"
                | "last_value"
        );
        self.effects.unordered |= ordered && call.agg_order.is_empty();
        let mut found = false;
        for function in self.names.functions(schema, name, names::arguments(call)) {
            found = true;
            if function.builtin {
                self.builtin(name, function.volatility, &call.args);
            } else {
                self.user_function(name, function);
            }
        }
        if !found {
            self.effects.anything();
        }
    }

    fn own_function(&mut self, name: &str) {
        let refusal = if own::FUNCTIONS.contains(&name) {
            own::misplaced(name)
        } else {
            Refusal::reserved(format!("lockstep.{name}() is the proxy's own"))
        };
        self.effects.refuse(refusal);
    }

    fn user_function(&mut self, name: &str, function: &Function) {
        self.effects.volatility(function.volatility);
        if matches!(function.extension.as_str(), "dblink" | "adminpack" | "lo") {
            return self.effects.refuse(Refusal::unsupported(
                format!(
                    "{name}() of extension {} acts outside of the replicated database",
                    function.extension
                ),
                "Do it from the application, or on each server by hand.",
            ));
        }
        if function.volatility == Volatility::Immutable {
            return;
        }
        // It may name any table, a temporary one among them, and may ask for the time.
        self.effects.by_name = true;
        if function.volatility == Volatility::Stable {
            self.effects.clock = true;
            self.effects.reads = Touched::Unknown;
        } else if !HARMLESS_EXTENSIONS.contains(&function.extension.as_str()) {
            self.effects.hold = self.effects.hold.max(function.hold);
            self.effects.unknown_rows();
        }
    }

    fn builtin(&mut self, name: &str, volatility: Volatility, args: &'t [Node]) {
        self.effects.volatility(volatility);
        if volatility == Volatility::Immutable {
            return;
        }
        match verdict(name) {
            Verdict::Plain if volatility == Volatility::Volatile => self.effects.anything(),
            Verdict::Plain | Verdict::Harmless => {}
            Verdict::Clock => self.effects.clock = true,
            Verdict::Leader(hold) => self.effects.on_leader(hold),
            Verdict::LeaderClock => {
                self.effects.clock = true;
                self.effects.on_leader(Hold::Statement);
            }
            Verdict::Currval => {
                self.effects.uses_currval = true;
                self.effects.on_leader(Hold::Statement);
            }
            Verdict::Nextval => self.sequence(args),
            Verdict::Setval => {
                self.sequence(args);
                self.effects.resets_sequences = true;
            }
            Verdict::SetConfig => self.set_config(args),
            Verdict::CurrentSetting => self.current_setting(args),
            Verdict::ByName => {
                self.effects.by_name = true;
                self.effects.on_leader(Hold::Statement);
            }
            Verdict::ReadsTables => {
                self.effects.by_name = true;
                self.effects.reads = Touched::Unknown;
            }
            Verdict::Notify => {
                self.effects.captured = true;
                self.effects.hold = self.effects.hold.max(Hold::Transaction);
            }
            Verdict::LargeObject => self.effects.refuse(large_objects()),
            Verdict::ServerFile => self.effects.refuse(server_files(&format!("{name}()"))),
            Verdict::ServerControl => self.effects.refuse(Refusal::unsupported(
                format!("{name}() acts on one server only and is not replicated"),
                "Run it on each server directly.",
            )),
        }
    }

    /// `nextval` and `setval` with a constant name move that sequence; else it may be any.
    fn sequence(&mut self, args: &[Node]) {
        self.effects.captured = true;
        self.effects.by_name = true;
        let named = args.first().and_then(names::string_constant).and_then(names::parse_qualified);
        let found = named.map(|(schema, name)| self.names.relation_named(&schema, &name));
        match found {
            Some(Found::Temp) => self.effects.on_leader(Hold::Session),
            _ => match args.first().and_then(|node| drawn::sequences_of(self.names, node)) {
                Some(named) => self.effects.sequences.merge(&named),
                None => self.effects.sequences = Sequences::Any,
            },
        }
    }

    fn set_config(&mut self, args: &[Node]) {
        let key = args.first().and_then(names::string_constant);
        if key.is_some_and(is_reserved_setting) {
            self.effects
                .refuse(Refusal::reserved("the settings \"lockstep.*\" are the proxy's own"));
        }
        let local = args.get(2).and_then(names::bool_constant) == Some(true);
        self.effects.on_leader(if local { Hold::Transaction } else { Hold::Session });
    }

    fn current_setting(&mut self, args: &[Node]) {
        match args.first().and_then(names::string_constant) {
            Some(key) if is_reserved_setting(key) => self
                .effects
                .refuse(Refusal::reserved("the settings \"lockstep.*\" are the proxy's own")),
            Some(key) if !is_leader_setting(&key.to_ascii_lowercase()) => {}
            _ => self.effects.on_leader(Hold::Statement),
        }
    }
}

/// `SELECT set_config('key', 'value', local)` and nothing else.
pub(super) fn bare_set_config(
    select: &pg_query::protobuf::SelectStmt,
) -> Option<(String, String, bool)> {
    let target = names::only_target(select)?;
    let Some(NodeEnum::FuncCall(call)) = &target.val.as_deref()?.node else {
        return None;
    };
    let (schema, name) = names::qualified(&call.funcname)?;
    if name != "set_config" || !matches!(schema, "" | "pg_catalog") {
        return None;
    }
    match call.args.as_slice() {
        [key, value, local] => Some((
            names::string_constant(key)?.to_ascii_lowercase(),
            names::string_constant(value)?.to_owned(),
            names::bool_constant(local)?,
        )),
        _ => None,
    }
}

pub(super) fn large_objects() -> Refusal {
    Refusal::unsupported(
        "large objects are not replicated: their numbers differ from one backend to another",
        "Store the data in a bytea column.",
    )
}

pub(super) fn server_files(what: &str) -> Refusal {
    Refusal::unsupported(
        format!("{what} touches a file or program of one server"),
        "Use COPY … FROM STDIN or COPY … TO STDOUT (psql: \\copy), which go through the client.",
    )
}

fn verdict(name: &str) -> Verdict {
    use Verdict as V;
    match name {
        "now" | "transaction_timestamp" | "statement_timestamp" | "age" => V::Clock,
        "random"
        | "random_normal"
        | "clock_timestamp"
        | "timeofday"
        | "gen_random_uuid"
        | "uuidv4"
        | "uuidv7"
        | "pg_sleep"
        | "pg_sleep_for"
        | "pg_sleep_until"
        | "current_query"
        | "pg_timezone_names"
        | "pg_timezone_abbrevs"
        | "pg_jit_available" => V::Harmless,
        "currval" | "lastval" => V::Currval,
        "nextval" => V::Nextval,
        "setval" => V::Setval,
        "set_config" => V::SetConfig,
        "current_setting" => V::CurrentSetting,
        "pg_notify" => V::Notify,
        "setseed" => V::Leader(Hold::Session),
        "to_regclass" | "to_regproc" | "to_regprocedure" | "to_regtype" | "to_regnamespace"
        | "to_regrole" | "to_regoper" | "to_regoperator" | "to_regcollation" => V::ByName,
        "txid_current"
        | "txid_current_if_assigned"
        | "txid_current_snapshot"
        | "pg_current_xact_id"
        | "pg_current_xact_id_if_assigned"
        | "pg_current_snapshot" => V::LeaderClock,
        "pg_export_snapshot" => V::Leader(Hold::Transaction),
        "pg_reload_conf"
        | "pg_rotate_logfile"
        | "pg_promote"
        | "pg_switch_wal"
        | "pg_nextoid"
        | "pg_create_restore_point"
        | "pg_start_backup"
        | "pg_stop_backup"
        | "pg_backup_start"
        | "pg_backup_stop"
        | "pg_wal_replay_pause"
        | "pg_wal_replay_resume"
        | "pg_import_system_collations"
        | "pg_drop_replication_slot"
        | "pg_stop_making_pinned_objects" => V::ServerControl,
        "pg_read_file" | "pg_read_file_old" | "pg_read_binary_file" | "pg_stat_file" => {
            V::ServerFile
        }
        "loread" | "lowrite" => V::LargeObject,
        _ => verdict_by_family(name),
    }
}

fn verdict_by_family(name: &str) -> Verdict {
    use Verdict as V;
    let any = |families: &[&str]| families.iter().any(|family| name.starts_with(family));
    if LEADER.contains(&name) {
        V::Leader(Hold::Statement)
    } else if name.contains("advisory_xact_lock") {
        V::Leader(Hold::Transaction)
    } else if name.contains("_advisory_") {
        V::Leader(Hold::Session)
    } else if name.starts_with("lo_") {
        V::LargeObject
    } else if any(&["table_to_xml", "schema_to_xml", "database_to_xml"]) {
        V::ReadsTables
    } else if any(&OBJECT_FAMILIES) || OBJECT_SUFFIXES.iter().any(|s| name.ends_with(s)) {
        V::ByName
    } else if any(&CONTROL_FAMILIES) {
        V::ServerControl
    } else if any(&LEADER_FAMILIES) {
        V::Leader(Hold::Statement)
    } else {
        V::Plain
    }
}

/// What has a meaning on one server only.
const LEADER: [&str; 27] = [
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "pg_backend_pid",
    "pg_blocking_pids",
    "pg_cancel_backend",
    "pg_conf_load_time",
    "pg_cursor",
    "pg_get_sequence_data",
    "pg_is_in_recovery",
    "pg_is_other_temp_schema",
    "pg_last_committed_xact",
    "pg_listening_channels",
    "pg_lock_status",
    "pg_my_temp_schema",
    "pg_notification_queue_usage",
    "pg_postmaster_start_time",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value",
    "pg_terminate_backend",
    "pg_xact_commit_timestamp",
    "pg_xact_status",
    "txid_status",
    "version",
];

/// The same, by the beginning of the name.
const LEADER_FAMILIES: [&str; 9] = [
    "pg_control_",
    "pg_current_wal_",
    "pg_last_wal_",
    "pg_ls_",
    "pg_stat_",
    "pg_walfile_name",
    "pg_show_all_",
    "pg_hba_file_rules",
    "pg_visible_in_snapshot",
];

/// Their arguments are object numbers, which differ from one backend to another, or names.
const OBJECT_FAMILIES: [&str; 12] = [
    "pg_get_",
    "pg_relation_",
    "pg_partition_",
    "pg_describe_object",
    "pg_identify_object",
    "pg_index_",
    "pg_sequence_parameters",
    "pg_database_",
    "pg_tablespace_",
    "obj_description",
    "format_type",
    "has_",
];

/// The same, by the end of the name.
const OBJECT_SUFFIXES: [&str; 4] = ["_is_visible", "_description", "_size", "_has_role"];

/// What acts on one server.
const CONTROL_FAMILIES: [&str; 5] =
    ["pg_create_", "pg_copy_", "pg_logical_", "pg_replication_", "binary_upgrade_"];
