# frozen_string_literal: true

Puppet::Type.type(:dpt_odd).provide(:ruby) do
  def state
    raise "\xff\xfe is no text" if resource[:name] == 'binary'

    'even'
  end

  def state=(_wanted)
    case resource[:name]
    when 'hang' then sleep
    when /\Aexit! (\/.*)/ then File.write(Regexp.last_match(1), Process.pid.to_s) && exit!(3)
    when 'exit' then exit(3)
    when 'crash' then Process.kill(:KILL, Process.pid)
    when 'fork'
      # It holds all that this process has open.
      fork { sleep 30 }
      exit!(5)
    when 'flood' then flood
    when 'raise' then raise Puppet::Error, 'it does not like to'
    when 'core' then raise Puppet::Error, 'a type of Puppet is missing' unless Puppet::Type::User.equal?(Puppet::Type.type(:user))
    when 'no error' then raise NotImplementedError, 'nobody wrote this'
    when /\Achild (\/.*)/ then File.write(Regexp.last_match(1), spawn('sleep', '300').to_s) && sleep
    end
  end

  def password
    'former'
  end

  def password=(wanted)
    warn "the password is #{wanted}"
    Puppet.warning("the password is #{wanted}")
    raise Puppet::Error, "could not set #{wanted}" if resource[:name] == 'tells'
  end

  # Answers that nobody has asked for, on every output that there is.
  def flood
    frame = [2].pack('N') + '{}'
    2000.times { $stdout.write(frame * 500) }
    $stderr.write(frame * 100_000)
    system('head -c 1000000 /dev/zero')
    STDOUT.write(frame)
  end
end
