//! What the server's own functions do, as far as a verdict depends on it.
//!
//! A function that stands in none of these lists may be a newer one, or one that somebody loaded into
//! the server. In a read that does no harm; in a write nobody could say that it gives the same value
//! everywhere.

/// What is special about a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// The same everywhere, given its arguments and the session's settings.
    Plain,
    /// … and the statement's timestamp.
    Clock,
    /// … and the seeds of the session's dice.
    Dice,
    /// … and the number that the session was given last.
    LastNumber,
    /// Another value on every server, or at every call.
    Different,
    /// Tells of the statement before it.
    Previous,
    /// Takes or frees a lock of the server session.
    Lock,
    /// Draws from a sequence, or sets it.
    Sequence,
    /// Reads a file of the server, or stops it for a while.
    Server,
    /// Depends on the order of the rows, unless it is told one.
    Ordered,
    /// Depends on the order of the rows where they are not exact numbers.
    Sum,
    /// Not known.
    Unknown,
}

/// What a function of this name is, when called with parentheses; `None` for what is no function.
pub(super) fn nature(name: &str) -> Option<Nature> {
    let has = |list: &str| list.split_ascii_whitespace().any(|word| word == name);
    Some(match () {
        () if has(NOT_FUNCTIONS) => return None,
        () if has(CLOCK) => Nature::Clock,
        () if name == "rand" => Nature::Dice,
        () if name == "last_insert_id" => Nature::LastNumber,
        () if has(DIFFERENT) => Nature::Different,
        () if has(PREVIOUS) => Nature::Previous,
        () if has(LOCKS) => Nature::Lock,
        () if has(SEQUENCES) => Nature::Sequence,
        () if has(SERVER) => Nature::Server,
        () if has(ORDERED) => Nature::Ordered,
        () if has(SUMS) => Nature::Sum,
        () if has(PLAIN) => Nature::Plain,
        () => Nature::Unknown,
    })
}

/// What a word is that calls a function without parentheses.
pub(super) fn bare(word: &str) -> Option<Nature> {
    match word {
        "current_timestamp" | "current_date" | "current_time" | "localtime" | "localtimestamp"
        | "utc_date" | "utc_time" | "utc_timestamp" => Some(Nature::Clock),
        "current_user" | "current_role" => Some(Nature::Different),
        _ => None,
    }
}

const CLOCK: &str = "now current_timestamp current_date current_time curdate curtime localtime \
    localtimestamp utc_date utc_time utc_timestamp unix_timestamp";

const DIFFERENT: &str = "uuid uuid_v4 uuid_v7 uuid_short sys_guid sysdate random_bytes connection_id \
    user current_user session_user system_user current_role version database_version encrypt \
    master_gtid_wait master_pos_wait wait_for_executed_gtid_set source_pos_wait is_free_lock \
    is_used_lock ps_current_thread_id ps_thread_id ";

const PREVIOUS: &str = "found_rows row_count";

const LOCKS: &str = "get_lock release_lock release_all_locks";

const SEQUENCES: &str = "nextval setval lastval previous";

const SERVER: &str = "load_file sleep benchmark";

const ORDERED: &str = "group_concat json_arrayagg json_objectagg row_number rank dense_rank ntile \
    first_value last_value nth_value lag lead percent_rank cume_dist percentile_cont \
    percentile_disc median any_value";

const SUMS: &str = "sum avg std stddev stddev_pop stddev_samp variance var_pop var_samp";

/// Words in front of a parenthesis that call nothing.
const NOT_FUNCTIONS: &str = "values value in exists and or not xor on using as select from where \
    having by set when then else case join over partition with all any some distinct union \
    except intersect into table index key primary unique references check limit returning div mod \
    like rlike regexp between is binary char varchar nchar nvarchar varbinary decimal numeric dec \
    fixed float double real bit int integer tinyint smallint mediumint bigint datetime timestamp \
    time year blob text tinytext mediumtext longtext tinyblob mediumblob longblob enum clob number \
    recursive force ignore use lateral columns path return if elseif while until call do match \
    against update delete insert replace row rows lines range add change modify constraint foreign \
    fulltext spatial hash list than engine order group natural cross inner left right outer \
    straight_join end call signal duplicate system_time portion period versioning to for";

const PLAIN: &str = "abs acos asin atan atan2 ceil ceiling conv cos cot crc32 crc32c degrees exp floor \
    greatest least ln log log10 log2 oct pi pow power radians round sign sin sqrt tan truncate \
    ascii bin bit_length char_length character_length concat concat_ws elt export_set field \
    find_in_set format from_base64 hex insert instr lcase left length lengthb locate lower lpad ltrim \
    make_set mid octet_length ord position quote repeat replace reverse right rpad rtrim soundex \
    space strcmp substr substring substring_index to_base64 trim ucase unhex upper weight_string \
    natural_sort_key sformat to_char chr regexp_like regexp_instr regexp_replace regexp_substr \
    adddate addtime convert_tz date date_add date_format date_sub datediff day dayname dayofmonth \
    dayofweek dayofyear extract from_days from_unixtime get_format hour last_day makedate maketime \
    microsecond minute month monthname period_add period_diff quarter sec_to_time second \
    str_to_date subdate subtime timediff timestampadd timestampdiff time_format time_to_sec \
    to_days to_seconds week weekday weekofyear yearweek add_months months_between \
    coalesce ifnull nullif nvl nvl2 isnull interval cast convert charset coercibility collation \
    collate default name_const decode decode_oracle inet_aton inet_ntoa inet6_aton inet6_ntoa is_ipv4 is_ipv4_compat \
    is_ipv4_mapped is_ipv6 is_uuid uuid_to_bin bin_to_uuid md5 sha sha1 sha2 aes_encrypt \
    aes_decrypt encode compress uncompress uncompressed_length password \
    old_password kdf bit_and bit_or bit_xor bit_count count max min grouping \
    json_array json_array_append json_array_insert json_array_intersect json_compact json_contains \
    json_contains_path json_depth json_detailed json_equals json_exists json_extract json_insert \
    json_keys json_length json_loose json_merge json_merge_patch json_merge_preserve \
    json_normalize json_object json_overlaps json_pretty json_query json_quote json_remove \
    json_replace json_schema_valid json_search json_set json_storage_size json_table json_type \
    json_unquote json_valid json_value json_value column_add column_check column_create column_delete column_exists column_get \
    column_json column_list extractvalue updatexml database schema \
    st_astext st_aswkt st_asbinary st_aswkb st_asgeojson st_area st_boundary st_buffer st_centroid \
    st_contains st_crosses st_difference st_dimension st_disjoint st_distance st_distance_sphere \
    st_endpoint st_envelope st_equals st_exteriorring st_geomcollfromtext st_geometryn \
    st_geometrytype st_geomfromgeojson st_geomfromtext st_geomfromwkb st_intersection \
    st_intersects st_isclosed st_isempty st_isring st_issimple st_length st_linefromtext \
    st_numgeometries st_numpoints st_overlaps st_pointfromtext st_pointn st_polyfromtext \
    st_relate st_srid st_startpoint st_symdifference st_touches st_union st_within st_x st_y \
    st_latitude st_longitude point linestring polygon multipoint multilinestring multipolygon \
    geometrycollection geomfromtext geometryfromtext astext asbinary mbrcontains mbrequal \
    mbrintersects mbrwithin mbrdisjoint mbroverlaps mbrtouches";
