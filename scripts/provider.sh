# What runpod.sh and lambda.sh share; they read it, and say first: provider, key_name, api and api_name, of the statuses
# of a machine those in which it is at_work, and those in which it is gone, a_gpu that it has, and an own_option. Theirs
# are `words` of a refusal, and `rent`, which gets the arguments of the runner.
# shellcheck shell=sh disable=SC2034,SC2154
handed_over="AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_REGION
  AWS_DEFAULT_REGION GOOGLE_CREDENTIALS_JSON GOOGLE_CLOUD_PROJECT SEQUENCE_WEBHOOK_URL SEQUENCE_GIT_TOKEN
  SEQUENCE_GIT_USER"

fail() { # exit code, message
  code=$1; shift
  printf '%s.sh: %s\n' "$provider" "$*" >&2
  exit "$code"
}

plain() { # what, text: refuses what one line cannot hold as it stands
  case $2 in *[!\ -~]*) fail 78 "$1 has line breaks or letters beyond ASCII; use sequence-runner launch $provider" ;; esac
}

prepare() { # the command line; where docker has the image, it does all and does not come back
  key=$(printenv "$key_name") || key=
  [ -n "$key" ] || fail 78 "$key_name is not set"
  plain "$key_name" "$key"
  if [ "$1" != stop ] && [ "${LAUNCH_WITH:-}" != curl ] && [ -n "${SEQUENCE_IMAGE:-}" ]; then
    if [ "${LAUNCH_WITH:-}" = docker ] || docker image inspect "$SEQUENCE_IMAGE" >/dev/null 2>&1; then
      with_docker "$@"
    fi
  fi
  only_https
  umask 077
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  trap 'exit 130' INT TERM
  trap 'exit 129' HUP PIPE QUIT # by these alone dash would leave without cleaning up, and the secrets stay
}

with_docker() {
  set -- -v "$PWD/runs:/runs" "$SEQUENCE_IMAGE" launch "$provider" "$@"
  [ ! -d data ] || set -- -v "$PWD/data:/data:ro" "$@"
  if [ -n "${GOOGLE_APPLICATION_CREDENTIALS:-}" ]; then
    set -- -v "$GOOGLE_APPLICATION_CREDENTIALS:/google.json:ro" -e GOOGLE_APPLICATION_CREDENTIALS=/google.json "$@"
  fi
  for name in $key_name $handed_over $(env | sed -n 's/^\(SEQUENCE_[A-Z0-9_]*\)=.*/\1/p'); do
    set -- -e "$name" "$@" # docker takes the value from the environment, so it stands in no list of processes
  done
  mkdir -p runs
  [ ! -t 1 ] || set -- --tty "$@"
  exec docker run --rm --user "$(id -u):$(id -g)" "$@"
}

with_curl() { # the command line
  gpu='' dataset='' profile=quick store='' max_hours=12 region='' run_id='' own_value='' image=${SEQUENCE_IMAGE:-}
  while [ $# -gt 0 ]; do
    [ "$1" != -- ] || { shift; break; }
    [ $# -gt 1 ] || fail 2 "$1 needs a value"
    plain "$1" "$2"
    case $1 in
      --gpu) gpu=$2 ;; --dataset) dataset=$2 ;; --profile) profile=$2 ;; --store) store=$2 ;; --image) image=$2 ;;
      --max-hours) max_hours=$2 ;; --region) region=$2 ;; --run-id) run_id=$2 ;; "$own_option") own_value=$2 ;;
      *) fail 2 "$1 is no option without docker; arguments of the runner go after --" ;;
    esac
    shift 2
  done
  for text in "$@"; do plain "an argument" "$text"; done
  [ -n "$gpu" ] || fail 2 "needs --gpu, for example $a_gpu"
  [ -n "$dataset" ] || fail 2 "needs --dataset, for example ADA-EUR_1H"
  [ -n "$image" ] || fail 78 "needs --image or SEQUENCE_IMAGE: an image that the provider can pull"
  credentials "$store"
  positive "$max_hours" # 0 would be no limit
  set -- --dataset "$dataset" --profile "$profile" --store "$store" --max-hours "$max_hours" --require-gpu "$@"
  name_run "$@"
  rent "$@" --run-id "$run_id"
}

only_https() { # the key travels to $api
  case $api in https://*) return ;; esac
  host=${api#http://}
  host=${host%%/*}
  case $api in
    http://127.0.0.1[:/]* | http://localhost[:/]*) case $host in *[!a-z0-9.:]*) ;; *) return ;; esac ;;
  esac
  fail 78 "$api_name must begin with https:// (http:// only for a server on this very computer)"
}

credentials() { # URL of a store: what the machine needs for it must be here
  [ -z "${GOOGLE_APPLICATION_CREDENTIALS:-}" ] || GOOGLE_CREDENTIALS_JSON=$(cat "$GOOGLE_APPLICATION_CREDENTIALS")
  export GOOGLE_CREDENTIALS_JSON="${GOOGLE_CREDENTIALS_JSON:-}"
  case $1 in
    s3://*)
      for name in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
        [ -n "$(printenv "$name")" ] || fail 78 "needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; $name is not set"
      done
      ;;
    gs://*) [ -n "$GOOGLE_CREDENTIALS_JSON" ] || fail 78 "needs GOOGLE_APPLICATION_CREDENTIALS (a file)" ;;
    *) fail 2 "needs --store s3://bucket/prefix or gs://bucket/prefix: results would end with the machine" ;;
  esac
}

positive() { # hours
  case $1 in *[!0-9.]* | *.*.* | '' | .* | *.) ;; *[1-9]*) return ;; esac
  fail 2 "--max-hours $1 is no number of hours above 0"
}

name_run() { # arguments of the runner: the same ones have the same run id, where none was given
  name=${dataset##*/}
  [ -n "$run_id" ] || run_id=${name%%.*}-$profile-$(printf '%s\n' "$@" | cksum | awk '{ printf "%08x", $1 }')
  case $run_id in *[!A-Za-z0-9._-]*) fail 2 "--run-id $run_id: expected letters, digits and ._-" ;; esac
}

call() { # method, path, file of the body; the answer is in $tmp/raw, on one line in $tmp/answer, its status in $status
  [ -z "${pause_s:-}" ] || sleep "$pause_s"
  [ -z "${3:-}" ] || set -- "$1" "$2" "$3" --data-binary "@$3" --header 'Content-Type: application/json'
  method=$1 path=$2
  shift "$(($# < 3 ? $# : 3))"
  rm -f "$tmp/raw"
  status=$(printf 'header = "Authorization: Bearer %s"\n' "$key" \
    | curl --disable --silent --show-error --config - --max-time 90 --write-out '%{http_code}' \
      --output "$tmp/raw" --request "$method" "$@" "$api/$path") || status=000
  touch "$tmp/raw"
  tr -d '\n\r\t' <"$tmp/raw" | sed 's/": */":/g' >"$tmp/answer"
}

get() { # path; without an answer to it nothing can be done
  call GET "$1"
  case $status in
    200) ;;
    401) fail 78 "$key_name is not accepted: $(words)" ;;
    *) fail 69 "GET $1 is answered with $status: $(words)" ;;
  esac
}

cleaned() { # an answer, without any value that was handed over, as it stands or as JSON writes it, the longest first
  awk -v names="$key_name $handed_over" '
    function as_json(text, at, letter, written) {
      for (at = 1; at <= length(text); at++) {
        letter = substr(text, at, 1)
        written = written (letter == "\"" || letter == "\\" ? "\\" letter : letter)
      }
      return written
    }
    function without(text, value, at, before) {
      while (at = index(text, value)) {
        before = before substr(text, 1, at - 1) "[redacted]"
        text = substr(text, at + length(value))
      }
      return before text
    }
    { text = text $0 " " }
    END {
      gsub(/\\\//, "/", text)
      gsub(/\\u0026/, "\\&", text)
      gsub(/\\u003[cC]/, "<", text)
      gsub(/\\u003[eE]/, ">", text)
      gsub(/\\u0027/, "\047", text)
      count = split(names, name, " ")
      for (i = 1; i <= count; i++) {
        value = ENVIRON[name[i]]
        gsub(/[\n\r\t]/, " ", value)
        sub(/ +$/, "", value)
        values[3 * i] = value
        values[3 * i + 1] = as_json(value)
        values[3 * i + 2] = as_json(as_json(value)) # of a text with JSON in it
      }
      while (1) {
        longest = 0
        for (i in values)
          if (length(values[i]) > 3 && (!longest || length(values[i]) > length(values[longest]))) longest = i
        if (!longest) break
        text = without(text, values[longest])
        delete values[longest]
      }
      print text
    }'
}

machines() { # of a list that is answered: status, id and name of each, a line for each
  awk '
    { text = text $0 }
    END {
      while (match(text, /"([^"\\]|\\.)*"|[{},:]|\[|\]/)) {
        word = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (word == "{" || word == "[") {
          depth++
          if (depth == 3) { value["id"] = value["name"] = value["status"] = "?" }
        } else if (word == "}" || word == "]") {
          if (depth == 3) print value["status"], value["id"], value["name"]
          depth--
        } else if (depth == 3 && word ~ /^"/) {
          word = substr(word, 2, length(word) - 2)
          if (before == ":") value[field] = word
          else field = word
          word = "text"
        }
        before = word
      }
    }'
}

is_there() { # by the list in $tmp/raw: whether a machine of the run's name is at work; one that is not must go first
  idle=''
  machines <"$tmp/raw" >"$tmp/machines"
  while read -r its_status its_id its_name; do
    [ "$its_name" = "$run_id" ] || continue
    case " $at_work " in *" $its_status "*) return 0 ;; esac
    case " $gone " in *" $its_status "*) ;; *) idle=$its_id idle_status=$its_status ;; esac
  done <"$tmp/machines"
  [ -z "$idle" ] || fail 69 "machine $idle of run $run_id is $idle_status, does nothing and may cost;" \
    "end it with $0 stop $idle, then launch again"
  return 1
}

look_after() { # path of the list of machines: after an unclear answer; comes back where one of the run's name is there
  why="$status $(words)"
  for pause in 2 5 10 20; do
    sleep "$pause"
    call GET "$1"
    [ "$status" = 200 ] || continue # a look that fails tells nothing of the machine
    ! is_there || return 0
  done
  fail 69 "whether a machine was rented is unknown ($why): one named $run_id may exist and cost;" \
    "look in the provider's console before you launch again"
}
